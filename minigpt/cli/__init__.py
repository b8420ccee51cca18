"""The command line: overrides, composition, explained errors. The only room that starts Hydra."""
