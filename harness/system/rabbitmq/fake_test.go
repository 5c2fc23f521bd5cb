package rabbitmq

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake is a server that speaks as much AMQP 0-9-1 as a client here asks for, and
// answers the way a test wants.
type fake struct {
	t    *testing.T
	addr string

	mu      sync.Mutex
	conns   []net.Conn
	methods [][2]uint16 // that came on channel 1, once it was open
	publish func(*session, uint64)
	get     func(*session)
	declare func(*session)
}

// session is one connection of a client.
type session struct {
	f    *fake
	c    net.Conn
	tags uint64
}

// Methods by class and number, as in the AMQP 0-9-1 reference.
var (
	channelCloseOK = [2]uint16{20, 41}
	basicPublish   = [2]uint16{60, 40}
	basicReturn    = [2]uint16{60, 50}
	basicGet       = [2]uint16{60, 70}
	basicGetOK     = [2]uint16{60, 71}
	basicEmpty     = [2]uint16{60, 72}
	basicAck       = [2]uint16{60, 80}
	basicReject    = [2]uint16{60, 90}
	basicNack      = [2]uint16{60, 120}
	queueDeclare   = [2]uint16{50, 10}
	declareOK      = [2]uint16{50, 11}
	channelClose   = [2]uint16{20, 40}
)

func newFake(t *testing.T) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{t: t, addr: l.Addr().String()}
	var g sync.WaitGroup
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			g.Go(func() { (&session{f: f, c: c}).serve() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.mu.Lock()
		for _, c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		g.Wait()
	})
	return f
}

// saw lists the methods that came on the channel since it was asked last, without the
// answer to its closing, which the client's library gives at a time of its own.
func (f *fake) saw() [][2]uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.methods
	f.methods = nil
	return slices.DeleteFunc(m, func(method [2]uint16) bool { return method == channelCloseOK })
}

// serve answers one client until it is gone.
func (s *session) serve() {
	defer func() { _ = s.c.Close() }()
	r := bufio.NewReader(s.c)
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return
	}
	// connection.start: version, no properties, mechanisms, locales.
	s.send(0, [2]uint16{10, 10}, []byte{0, 9}, uint32Of(0), long("PLAIN"), long("en_US"))
	for {
		kind, channel, body, err := frame(r)
		if err != nil {
			return
		}
		if kind != 1 {
			if kind == 3 { // the body: a message is whole
				s.tags++
				s.f.publish(s, s.tags)
			}
			continue
		}
		m := [2]uint16{binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])}
		switch m {
		case [2]uint16{10, 11}: // start-ok
			s.send(0, [2]uint16{10, 30}, []byte{7, 255}, uint32Of(131072), []byte{0, 60})
		case [2]uint16{10, 31}: // tune-ok
		case [2]uint16{10, 40}: // open
			s.send(0, [2]uint16{10, 41}, []byte{0})
		case [2]uint16{10, 50}: // close
			s.send(0, [2]uint16{10, 51})
			return
		case [2]uint16{20, 10}: // channel.open
			s.send(channel, [2]uint16{20, 11}, uint32Of(0))
		case [2]uint16{85, 10}: // confirm.select
			s.send(channel, [2]uint16{85, 11})
		default:
			s.f.mu.Lock()
			s.f.methods = append(s.f.methods, m)
			s.f.mu.Unlock()
			switch m {
			case basicGet:
				s.f.get(s)
			case queueDeclare:
				s.f.declare(s)
			}
		}
	}
}

// frame reads one frame.
func frame(r io.Reader) (kind byte, channel uint16, body []byte, err error) {
	head := make([]byte, 7)
	if _, err = io.ReadFull(r, head); err != nil {
		return 0, 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[3:])+1)
	_, err = io.ReadFull(r, body)
	return head[0], binary.BigEndian.Uint16(head[1:]), body[:len(body)-1], err
}

func (s *session) write(kind byte, channel uint16, body []byte) {
	b := []byte{kind}
	b = binary.BigEndian.AppendUint16(b, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	_, _ = s.c.Write(append(append(b, body...), 0xCE)) // the client may be gone
}

func (s *session) send(channel uint16, method [2]uint16, args ...[]byte) {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, method[0])
	b = binary.BigEndian.AppendUint16(b, method[1])
	for _, a := range args {
		b = append(b, a...)
	}
	s.write(1, channel, b)
}

// content sends the header and the body that follow a method, without properties but
// for a table of headers.
func (s *session) content(headers, body []byte) {
	b := []byte{0, 60, 0, 0}
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	if headers == nil {
		b = append(b, 0, 0)
	} else {
		b = append(b, 0x20, 0)
		b = append(append(b, uint32Of(uint32(len(headers)))...), headers...)
	}
	s.write(2, 1, b)
	s.write(3, 1, body)
}

// Answers.
func (s *session) ack(tag uint64)  { s.send(1, basicAck, uint64Of(tag), []byte{0}) }
func (s *session) nack(tag uint64) { s.send(1, basicNack, uint64Of(tag), []byte{0}) }
func (s *session) back() {
	s.send(1, basicReturn, []byte{1, 56}, short("NO_ROUTE"), short(""), short("q-0"))
	s.content(nil, []byte("x"))
}

func (s *session) give(redelivered byte, headers, body []byte) {
	s.tags++
	s.send(1, basicGetOK, uint64Of(s.tags), []byte{redelivered}, short(""), short("q-0"), uint32Of(0))
	s.content(headers, body)
}
func (s *session) empty() { s.send(1, basicEmpty, short("")) }
func (s *session) known() { s.send(1, declareOK, short("q-0"), uint32Of(0), uint32Of(0)) }

func (s *session) closeChannel(code uint16, text string) {
	s.send(1, channelClose, binary.BigEndian.AppendUint16(nil, code), short(text), []byte{0, 60, 0, 70})
}
func (s *session) hangUp() { _ = s.c.Close() }

func short(s string) []byte    { return append([]byte{byte(len(s))}, s...) }
func long(s string) []byte     { return append(uint32Of(uint32(len(s))), s...) }
func uint32Of(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func uint64Of(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
func longHeader(name string, n int64) []byte {
	return append(append(short(name), 'l'), uint64Of(uint64(n))...)
}
