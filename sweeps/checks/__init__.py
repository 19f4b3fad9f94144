"""What can be wrong with the nodes of a cluster, looked at from each node: for `dmkd doctor`, and before a sweep begins."""
