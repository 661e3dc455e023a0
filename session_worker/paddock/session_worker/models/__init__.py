"""Those who answer: a script, or a provider on the network."""
