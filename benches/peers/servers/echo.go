// Go and its standard library, coalescing by hand: a goroutine for each connection, buffered both ways, flushed when the
// next read would wait.
//
//	echo MODE [BUFFER]
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// Flushes before it reads, so before it waits.
type flushing struct {
	net.Conn
	w *bufio.Writer
}

func (f flushing) Read(p []byte) (int, error) {
	if err := f.w.Flush(); err != nil {
		return 0, err
	}
	return f.Conn.Read(p)
}

func lines(r *bufio.Reader, w *bufio.Writer) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
}

// Writes the head and the next n bytes, and skips what follows.
func frame(r *bufio.Reader, w *bufio.Writer, head []byte, n int, tail []byte) error {
	if _, err := w.Write(head); err != nil {
		return err
	}
	content, err := r.Peek(n + len(tail))
	if err == nil {
		_, err = w.Write(content)
		r.Discard(len(content))
		return err
	}
	// Larger than the buffer.
	_, err = io.CopyN(w, r, int64(n+len(tail)))
	return err
}

func int32s(r *bufio.Reader, w *bufio.Writer) error {
	for {
		prefix, err := r.Peek(4)
		if err != nil {
			return err
		}
		var head [4]byte
		copy(head[:], prefix)
		r.Discard(4)
		if err := frame(r, w, head[:], int(binary.BigEndian.Uint32(head[:])), nil); err != nil {
			return err
		}
	}
}

func netstrings(r *bufio.Reader, w *bufio.Writer) error {
	var buffer [24]byte
	for {
		digits, err := r.ReadSlice(':')
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(digits[:len(digits)-1]), 10, 30)
		if err != nil {
			return err
		}
		head := append(strconv.AppendUint(buffer[:0], n, 10), ':')
		if err := frame(r, w, head, int(n), []byte(",")); err != nil {
			return err
		}
	}
}

func echo(conn net.Conn, size int, serve func(*bufio.Reader, *bufio.Writer) error) {
	defer conn.Close()
	w := bufio.NewWriterSize(conn, size)
	serve(bufio.NewReaderSize(flushing{conn, w}, size), w)
}

func main() {
	// Enough for a burst of 64 frames of 64 bytes; Go's own default is 4 KiB, which is not.
	serve, size := lines, 8*1024
	if len(os.Args) > 2 {
		size, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "int32":
		serve = int32s
	case "netstring":
		serve = netstrings
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	for {
		// No delay is what Go sets by itself.
		conn, err := listener.Accept()
		if err != nil {
			continue
		}
		go echo(conn, size, serve)
	}
}
