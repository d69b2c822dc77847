"""The pieces that both training loops are made of."""
