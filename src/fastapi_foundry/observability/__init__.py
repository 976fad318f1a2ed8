"""What the process tells about itself: logging now, metrics and tracing later."""
