"""What all theories share: spaces, groups, actions, priors, and the registry of their kinds."""
