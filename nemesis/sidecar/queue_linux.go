package sidecar

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages and attributes of linux/netfilter/nfnetlink_queue.h.
const (
	nfqPacket  = unix.NFNL_SUBSYS_QUEUE << 8
	nfqVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	nfqConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	nfqaPacketHeader  = 1
	nfqaVerdictHeader = 2
	nfqaPayload       = 10

	nfqaConfigCommand = 1
	nfqaConfigParams  = 2
	nfqaConfigLength  = 3

	nfqBind       = 1
	nfqCopyPacket = 2

	nfDrop   = 0
	nfAccept = 1

	hookLocalIn = 1 // NF_INET_LOCAL_IN
)

const (
	queueNumber = 0 // of the namespace
	// queueLength is how many packets may be held; the kernel drops what is beyond it.
	queueLength = 1 << 16
	queueBuffer = 8 << 20 // bytes, of the socket

	queueFeatures = "CONFIG_NETFILTER_NETLINK_QUEUE with CONFIG_NFT_QUEUE, or with CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE"
)

// nfqueue is the queue of the namespace, over netlink. The kernel hands over
// packets as they would be on a wire: segmented, with their checksums.
type nfqueue struct {
	*queue
	conn *netlink.Conn
	wg   sync.WaitGroup
}

// openQueue binds the queue. Nothing else of the namespace may have bound it.
func openQueue(spare uint16) (*nfqueue, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("opening the packet queue: %w", describe(err))
	}
	for _, attr := range []netlink.Attribute{
		{Type: nfqaConfigCommand, Data: []byte{nfqBind, 0, 0, unix.AF_INET}},
		{Type: nfqaConfigParams, Data: append(binary.BigEndian.AppendUint32(nil, 0xffff), nfqCopyPacket)},
		{Type: nfqaConfigLength, Data: binary.BigEndian.AppendUint32(nil, queueLength)},
	} {
		data, err := queueMessage(attr)
		if err == nil {
			_, err = conn.Execute(netlink.Message{
				Header: netlink.Header{Type: nfqConfig, Flags: netlink.Request | netlink.Acknowledge}, Data: data,
			})
		}
		if err != nil {
			err = errors.Join(err, conn.Close())
			if lacking(err) || errors.Is(err, unix.EINVAL) {
				return nil, fmt.Errorf("binding the packet queue: %w: the engine's kernel needs %s", err, queueFeatures)
			}
			return nil, fmt.Errorf("binding the packet queue: %w", describe(err))
		}
	}
	// A burst that does not fit into the buffer is lost, as on a link, and no error.
	err = errors.Join(conn.SetReadBuffer(queueBuffer), conn.SetOption(netlink.NoENOBUFS, true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the packet queue: %w", err), conn.Close())
	}
	var seed [32]byte
	_, _ = rand.Read(seed[:]) // never fails
	q := &nfqueue{conn: conn}
	q.queue = newQueue(spare, mathrand.New(mathrand.NewChaCha8(seed)), q.decide)
	q.wg.Go(q.read)
	return q, nil
}

// Close lets everything go on that is held, and gives the queue up.
func (q *nfqueue) Close() error {
	q.close()
	err := q.conn.Close()
	q.wg.Wait()
	return err
}

// queueMessage is a message about the queue: struct nfgenmsg and attributes.
func queueMessage(attrs ...netlink.Attribute) ([]byte, error) {
	b, err := netlink.MarshalAttributes(attrs)
	head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}
	return append(binary.BigEndian.AppendUint16(head, queueNumber), b...), err
}

func (q *nfqueue) read() {
	for {
		msgs, err := q.conn.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		if err != nil {
			continue // of a verdict on a packet that is gone
		}
		now := time.Now()
		for _, m := range msgs {
			if m.Header.Type == nfqPacket && len(m.Data) > 4 {
				q.take(m.Data[4:], now)
			}
		}
	}
}

func (q *nfqueue) take(data []byte, now time.Time) {
	attrs, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return
	}
	var head, packet []byte
	for _, a := range attrs {
		switch a.Type {
		case nfqaPacketHeader:
			head = a.Data
		case nfqaPayload:
			packet = a.Data
		}
	}
	if len(head) < 7 {
		return
	}
	hook := Output
	if head[6] == hookLocalIn {
		hook = Input
	}
	q.arrive(binary.BigEndian.Uint32(head), hook, packet, now)
}

// decide tells the kernel. An error means that the packet is gone, or the queue.
func (q *nfqueue) decide(id uint32, pass bool, payload []byte) {
	what := uint32(nfDrop)
	if pass {
		what = nfAccept
	}
	attrs := []netlink.Attribute{{Type: nfqaVerdictHeader, Data: binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, what), id)}}
	if payload != nil {
		attrs = append(attrs, netlink.Attribute{Type: nfqaPayload, Data: payload})
	}
	if data, err := queueMessage(attrs...); err == nil {
		_, _ = q.conn.Send(netlink.Message{Header: netlink.Header{Type: nfqVerdict, Flags: netlink.Request}, Data: data})
	}
}
