"""Operations on arrays that losses and evaluators share: neighbours, selection, memory."""
