"""Losses on finished samples: `d` of Eq. 7, as functions of tensors that know nothing of samplers."""
