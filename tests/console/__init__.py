"""The pages in a real browser, with real processes behind them."""
