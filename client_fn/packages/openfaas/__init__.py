"""The container image of OpenFaaS functions, and a stack file to deploy it by hand."""
