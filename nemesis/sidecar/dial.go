package sidecar

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// What became of a dial.
const (
	Accepted    = "accepted" // and what was sent came back
	WasReset    = "reset"    // refused, reset or closed
	Unanswered  = "silent"   // opened, and nothing came back
	DialTimeout = "timeout"  // not opened
)

// DialLimit bounds a dial, and the answer to what is sent.
const DialLimit = time.Second

var ping = []byte("faultline")

// Dial opens a connection to another endpoint's echoServer, sends a few bytes and
// waits until they come back.
func Dial(ctx context.Context, address string) (string, error) {
	conn, err := (&net.Dialer{Timeout: DialLimit}).DialContext(ctx, "tcp4", address)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return WasReset, nil
	case err != nil:
		return DialTimeout, nil
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(DialLimit)); err != nil {
		return "", err
	}
	_, err = conn.Write(ping)
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, len(ping)))
	}
	switch {
	case err == nil:
		return Accepted, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Unanswered, nil
	}
	return WasReset, nil
}

// echoServer sends back what it receives on its connections.
type echoServer struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func startEchoServer(port uint16) (*echoServer, error) {
	l, err := net.Listen("tcp4", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s := &echoServer{listener: l, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.serve(conn)
			}
		}
	})
	return s, nil
}

func (s *echoServer) serve(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return
	}
	s.conns[conn] = true
	s.wg.Go(func() {
		_ = conn.SetDeadline(time.Now().Add(5 * DialLimit))
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	})
}

// Close ends all connections.
func (s *echoServer) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.wg.Wait()
	return err
}
