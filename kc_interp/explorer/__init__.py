"""The live page: one expression, one or two models thinking about it, and every part of them to be switched off.

`state` is all that a view depends on and lives in the address; `thinking` computes what the models do under the state's
interventions; `views` makes figures of it; `app` lays them out; `server` answers on 127.0.0.1 alone.
"""
