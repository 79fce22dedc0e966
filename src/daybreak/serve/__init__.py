"""A run or a bundle as a web page and as a service, for this machine or, with a token, for a network.

Stands on explain and report. From outside: `server.serve`, `options.ServeOptions`, `of_run.ServedRun` and
`of_bundle.ServedBundle`.
"""
