"""Who may do what: keys, scopes, the principal behind a request. Values and pure functions; nothing waits here."""
