"""From a policy's options, and an application's arms, to the policy itself."""

from collections.abc import Sequence

from clipper_common import selection_policies as declared
from query_frontend.selection.ensemble import EnsemblePolicy
from query_frontend.selection.epsilon_greedy import EpsilonGreedyPolicy
from query_frontend.selection.exp3 import Exp3Policy
from query_frontend.selection.exp4 import Exp4Policy
from query_frontend.selection.interface import SelectionPolicy
from query_frontend.selection.shadow import ShadowPolicy
from query_frontend.selection.split import SplitPolicy
from query_frontend.selection.thompson import ThompsonPolicy


def selection_policy(options: declared.Policy, arms: Sequence[str]) -> SelectionPolicy:
    """Return the policy for these arms, one at least, which `options.check` has accepted."""
    match options:
        case declared.Split():
            return SplitPolicy(options.weights_of(arms))
        case declared.Shadow():
            return ShadowPolicy(options, arms)
        case declared.EpsilonGreedy():
            return EpsilonGreedyPolicy(options, arms)
        case declared.Thompson():
            return ThompsonPolicy(arms)
        case declared.Exp3():
            return Exp3Policy(options, arms)
        case declared.Exp4():
            return Exp4Policy(options, arms)
        case declared.Ensemble():
            return EnsemblePolicy(options, arms)
        case _:
            return SplitPolicy(dict.fromkeys(arms, 1.0))  # `single`: a split of one arm
