"""Every metric: one entry in `table.py`; the distances and intervals behind them."""
