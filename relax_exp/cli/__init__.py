"""The commands `relax-exp` and `relax-exp-report`."""
