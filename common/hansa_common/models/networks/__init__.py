"""The networks that are more than a list of layers; torch is imported here, so only ``build`` imports these modules."""
