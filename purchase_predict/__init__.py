"""What the steps of the purchase-predict workflow are made of."""
