"""A Flower app with a mistake in its ClientApp."""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    raise ValueError("patient 17 is not a number")


@server.main()
def main(grid: Grid, context: Context) -> None:
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    for reply in grid.send_and_receive(messages, timeout=60.0):
        print("reply", reply.error.reason)
