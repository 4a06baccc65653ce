"""Federated averaging whose sites stay near the model that they were sent.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks. MLSys 2020, algorithm 2.
"""

from hansa_common.strategies import FedProxOptions
from hansa_server.strategies.fedavg import FedAvg
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("fedprox")
class FedProx(FedAvg):
    """The server's half is federated averaging; ``mu`` is for the sites, who add its term to their loss.

    The paper samples sites by their data and averages plainly; weighing by examples has the same expectation.
    """

    options = FedProxOptions

    def __init__(self, *, mu: float = FedProxOptions().mu) -> None:
        del mu  # see ``hansa_client.training.corrections``
