"""What tests share: strategies, oracles, helpers."""
