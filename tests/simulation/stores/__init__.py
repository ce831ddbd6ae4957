"""DynamoDB and S3 in memory, as the services' own store classes ask them by the SDK's client."""
