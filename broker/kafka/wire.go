package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// MaxRequest is the largest request that is taken, in bytes (Kafka:
// socket.request.max.bytes, 100 MiB there).
const MaxRequest = 64 << 20

// Header is what precedes a request's body.
type Header struct {
	Key         int16
	Version     int16
	Correlation int32
	ClientID    string
}

// ErrUnserved is returned (wrapped) for a request kind or version that is not
// advertised; the connection is closed, as Kafka does.
var ErrUnserved = errors.New("request is not served")

// Decode decodes one request, without its length prefix. For an ApiVersions
// request of an unknown version it returns version 0, whose answer tells the
// client what there is, with unsupported set: the answer's error code must be
// UNSUPPORTED_VERSION (KIP-511).
func Decode(frame []byte) (h Header, req kmsg.Request, unsupported bool, err error) {
	r := kbin.Reader{Src: frame}
	h.Key, h.Version, h.Correlation = r.Int16(), r.Int16(), r.Int32()
	if id := r.NullableString(); id != nil {
		h.ClientID = *id
	}
	if !r.Ok() {
		return h, nil, false, errors.New("request header is cut off")
	}
	if _, ok := served(h.Key, h.Version); !ok {
		if h.Key == int16(kmsg.ApiVersions) {
			req = kmsg.NewPtrApiVersionsRequest()
			return h, req, true, nil
		}
		return h, nil, false, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(h.Key), h.Version, ErrUnserved)
	}
	req = kmsg.RequestForKey(h.Key)
	req.SetVersion(h.Version)
	if req.IsFlexible() {
		// A count that cannot be true would keep SkipTags busy for seconds.
		if n, _ := binary.Uvarint(r.Src); n > uint64(len(r.Src)) {
			return h, nil, false, errors.New("request header has more tags than bytes")
		}
		kmsg.SkipTags(&r)
		if !r.Ok() {
			return h, nil, false, errors.New("request header is cut off")
		}
	}
	if err := req.ReadFrom(r.Src); err != nil {
		return h, nil, false, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(h.Key), h.Version, err)
	}
	return h, req, false, nil
}

// AppendResponse appends a response with its length prefix.
func AppendResponse(b []byte, correlation int32, resp kmsg.Response) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		b = append(b, 0)
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}
