package sim

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// logBuffer keeps the newest part of a node's log.
type logBuffer struct {
	buf   bytes.Buffer
	limit int
}

func (b *logBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.limit {
		b.buf.Next(b.buf.Len() - min(b.buf.Len(), b.limit/2))
		if i := bytes.IndexByte(b.buf.Bytes(), '\n'); i >= 0 {
			b.buf.Next(i + 1)
		}
		rest := append([]byte("(older lines dropped: the log exceeded its limit)\n"), b.buf.Bytes()...)
		b.buf.Reset()
		b.buf.Write(rest)
	}
	return b.buf.Write(p)
}

// logHandler stamps records with the node's clock.
type logHandler struct {
	slog.Handler
	now func() time.Time
}

func newLogHandler(n *node, level slog.Level) slog.Handler {
	text := slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: level})
	return logHandler{Handler: text, now: n.wall}
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = h.now().UTC()
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{Handler: h.Handler.WithAttrs(attrs), now: h.now}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{Handler: h.Handler.WithGroup(name), now: h.now}
}
