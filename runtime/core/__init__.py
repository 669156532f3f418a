"""The Python face of the native core: its library, its calls, and the objects behind them."""
