"""The command line: ``paddock VERB``. ``main`` is the door, a module answers a group of verbs."""
