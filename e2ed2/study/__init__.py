"""`e2ed2 study`: the human study (App. E), blind pairwise comparison in the browser, and what its votes show.

Floor 10. `design` draws it, `create` sets it up, `store` keeps its votes, `app` serves it, `analysis` reads the votes.
"""
