"""Contract repair: any engine behind the ``Engine`` port, made to behave as OpenAI's API says."""
