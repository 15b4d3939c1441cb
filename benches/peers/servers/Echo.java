// Netty, coalescing as its guide says: `write` for each frame, `flush` when the read is over. One event loop.
//
//   java Echo MODE

import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.ChannelPipeline;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.ByteToMessageDecoder;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.handler.codec.LineBasedFrameDecoder;
import io.netty.handler.codec.MessageToByteEncoder;
import java.net.InetSocketAddress;
import java.util.List;

public final class Echo {
    /** Netty has no netstrings. */
    static final class NetstringDecoder extends ByteToMessageDecoder {
        @Override
        protected void decode(ChannelHandlerContext context, ByteBuf in, List<Object> out) {
            int colon = in.bytesBefore((byte) ':');
            if (colon < 0) {
                return;
            }
            int length = 0;
            for (int i = 0; i < colon; i++) {
                length = length * 10 + in.getByte(in.readerIndex() + i) - '0';
            }
            if (in.readableBytes() < colon + length + 2) {
                return;
            }
            in.skipBytes(colon + 1);
            out.add(in.readRetainedSlice(length));
            in.skipBytes(1);
        }
    }

    /** Encodes a frame anew. */
    static final class Encoder extends MessageToByteEncoder<ByteBuf> {
        private final String mode;

        Encoder(String mode) {
            this.mode = mode;
        }

        @Override
        protected void encode(ChannelHandlerContext context, ByteBuf frame, ByteBuf out) {
            switch (mode) {
                case "line":
                    out.writeBytes(frame).writeByte('\n');
                    break;
                case "int32":
                    out.writeInt(frame.readableBytes()).writeBytes(frame);
                    break;
                default:
                    for (char digit : Integer.toString(frame.readableBytes()).toCharArray()) {
                        out.writeByte(digit);
                    }
                    out.writeByte(':').writeBytes(frame).writeByte(',');
            }
        }
    }

    static final class Handler extends ChannelInboundHandlerAdapter {
        @Override
        public void channelRead(ChannelHandlerContext context, Object frame) {
            context.write(frame, context.voidPromise());
        }

        @Override
        public void channelReadComplete(ChannelHandlerContext context) {
            context.flush();
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            context.close();
        }
    }

    public static void main(String[] args) throws Exception {
        String mode = args[0];
        EventLoopGroup group = new NioEventLoopGroup(1);
        ServerBootstrap bootstrap = new ServerBootstrap()
                .group(group)
                .channel(NioServerSocketChannel.class)
                .option(ChannelOption.SO_BACKLOG, 1024)
                .childOption(ChannelOption.TCP_NODELAY, true)
                .childHandler(new ChannelInitializer<Channel>() {
                    @Override
                    protected void initChannel(Channel channel) {
                        ChannelPipeline pipeline = channel.pipeline();
                        switch (mode) {
                            case "line":
                                pipeline.addLast(new LineBasedFrameDecoder(16 * 1024));
                                break;
                            case "int32":
                                pipeline.addLast(new LengthFieldBasedFrameDecoder(1 << 20, 0, 4, 0, 4));
                                break;
                            default:
                                pipeline.addLast(new NetstringDecoder());
                        }
                        pipeline.addLast(new Encoder(mode), new Handler());
                    }
                });
        Channel channel = bootstrap.bind("127.0.0.1", 0).sync().channel();
        System.out.println("127.0.0.1:" + ((InetSocketAddress) channel.localAddress()).getPort());
        channel.closeFuture().sync();
    }
}
