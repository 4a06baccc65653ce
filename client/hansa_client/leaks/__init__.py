"""What leaks: attacks from the literature, run against what a study's sites would really send.

Everything here runs on the researcher's machine, on data that lie there: the attacks need the originals to say how
close they came. No real site imports this package.
"""
