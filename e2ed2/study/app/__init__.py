"""The study in the browser: pages of raters and of the organiser, and what keeps them apart.

Knows the study's folder and its store; of statistics, only how well raters agree.
"""
