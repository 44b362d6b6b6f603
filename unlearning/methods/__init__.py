"""The methods. `registry.METHODS` lists them; nothing is imported here, so that `methods.ltu` stays the package and not a function."""
