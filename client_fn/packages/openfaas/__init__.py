"""The container image of OpenFaaS functions, and how to deploy it by hand."""
