"""What the platform costs a month on AWS, by size: prices, sizes and the arithmetic. Pure.

python -m tools.dev.costs            # print the tables
python -m tools.dev.costs --write    # write them into docs/operations/
"""
