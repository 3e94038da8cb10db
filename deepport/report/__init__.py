"""A conformance report for people and machines: read, shown, compared, verified. Nothing here needs torch or a device."""
