"""What carries messages between a ServerApp and the sites: one Flower Grid each, the same study on all of them."""
