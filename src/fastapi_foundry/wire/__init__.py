"""The contracts that go over the wire, as plain types and pure functions."""
