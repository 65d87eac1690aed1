"""Reductions that depend on each other, as one pass: found by algebra, proved by z3.

For a sum over elements e of f(e, a), where a is a result that is not final yet, a state of additive
accumulators exists exactly when the functions f(., a) over all reachable a span a space of finite
dimension. With a basis b of it there is a matrix T with b(e, a') = T(a, a') b(e, a), so sums kept
at an anchor a move to another one by T, whatever was summed. `chain` takes dependent reductions out
of an operator, `derive` finds basis and T or says why there are none, `prove` discharges what the
derivation rests on, `rewrite` makes folds of the result.
"""
