"""Twisted with its own line, int32 and netstring receivers.

    twisted_echo.py MODE
"""

import sys

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import protocol, reactor  # noqa: E402
from twisted.protocols import basic  # noqa: E402


class Lines(basic.LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line)


class Int32s(basic.Int32StringReceiver):
    def stringReceived(self, string):
        self.sendString(string)


class Netstrings(basic.NetstringReceiver):
    def stringReceived(self, string):
        self.sendString(string)


class Echo(protocol.Factory):
    noisy = False

    def buildProtocol(self, addr):
        receiver = super().buildProtocol(addr)
        receiver.makeConnection = self.no_delay(receiver.makeConnection)
        return receiver

    @staticmethod
    def no_delay(make_connection):
        def make(transport):
            transport.setTcpNoDelay(True)
            make_connection(transport)

        return make


echo = Echo()
echo.protocol = {"line": Lines, "int32": Int32s, "netstring": Netstrings}[sys.argv[1]]
port = reactor.listenTCP(0, echo, backlog=1024, interface="127.0.0.1")
print(f"127.0.0.1:{port.getHost().port}", flush=True)
reactor.run()
