"""What purifier and mapper are worth: stability, usefulness and cost, with and without them."""
