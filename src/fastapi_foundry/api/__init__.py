"""The HTTP edge: parse, call one service method, shape the answer."""
