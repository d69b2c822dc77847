"""Array operations shared by losses and evaluators: neighbours, selection, memory."""
