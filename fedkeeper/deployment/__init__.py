"""Deployments: the file that describes one, the archives of the function, and the steps that create a fabric."""
