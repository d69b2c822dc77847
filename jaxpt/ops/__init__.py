"""Array operations shared by losses and evaluators: nearest neighbours, selection, memory."""
