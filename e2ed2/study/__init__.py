"""The human study (App. E): blind pairwise comparison, and what its votes show."""
