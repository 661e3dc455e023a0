"""How an agent of a kind is run: each driver says what comes next for its agent."""
