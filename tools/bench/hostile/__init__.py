"""Twenty verified subscribers beside one who means harm: what do they notice, what does it cost?"""
