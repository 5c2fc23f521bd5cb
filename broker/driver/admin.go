package driver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/node"
)

// queryTimeout is how long an admin request waits for the node's goroutine.
const queryTimeout = 2 * time.Second

// query runs f on the node's goroutine, between steps.
func (d *driver) query(ctx context.Context, f func(*node.Node)) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	done := make(chan struct{})
	select {
	case d.queries <- func(n *node.Node) { f(n); close(done) }:
		<-done
		return nil
	case <-d.deaf:
		return fmt.Errorf("the node has stopped")
	case <-ctx.Done():
		return fmt.Errorf("the node did not answer within %s: it is busy, or its standard output is not read", queryTimeout)
	}
}

// admin serves /readyz, /livez, /version, /clock and /metrics. /clock is the node's
// wall clock, in nanoseconds since 1970.
func (d *driver) admin() *http.Server {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, ok bool, detail string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, detail)
	}
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var ok bool
		var detail string
		if err := d.query(r.Context(), func(n *node.Node) { ok, detail = n.Ready() }); err != nil {
			detail = err.Error()
		}
		answer(w, ok, detail)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { answer(w, true, d.cfg.Version) })
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		if err := d.query(r.Context(), func(*node.Node) {}); err != nil {
			answer(w, false, err.Error())
			return
		}
		answer(w, true, "alive")
	})
	mux.HandleFunc("GET /clock", func(w http.ResponseWriter, r *http.Request) {
		var now broker.Time
		if err := d.query(r.Context(), func(*node.Node) { now = d.now() }); err != nil {
			answer(w, false, err.Error())
			return
		}
		answer(w, true, strconv.FormatInt(now.Wall, 10))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
}

// metrics are the driver's own figures.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	syncs     prometheus.Histogram
	linkDrops *prometheus.CounterVec
}

func newMetrics(d *driver) *metrics {
	latency := prometheus.ExponentialBuckets(0.0005, 2, 14) // to 4 s
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "faultline_requests_total", Help: "Requests of clients."}, []string{"api"}),
		latency:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "faultline_request_duration_seconds", Help: "From the request's last byte to its reply.", Buckets: latency}, []string{"api"}),
		syncs:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "faultline_log_sync_duration_seconds", Help: "Syncs of partition logs.", Buckets: latency}),
		linkDrops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "faultline_link_drops_total", Help: "Outgoing streams that ended."}, []string{"peer", "channel"}),
	}
	m.registry.MustRegister(m.requests, m.latency, m.syncs, m.linkDrops, nodeCollector{d}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// nodeCollector asks the node for its figures. Which there are, the node knows:
// the collector is unchecked.
type nodeCollector struct{ d *driver }

var _ prometheus.Collector = nodeCollector{}

// Describe implements prometheus.Collector.
func (nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name, help string, labels []string, value float64, values ...string) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("faultline_"+name, help, labels, nil), prometheus.GaugeValue, value, values...)
	}
	gauge("connections", "Open connections, by port.", []string{"port"}, float64(c.d.clients.Load()), "client")
	gauge("connections", "Open connections, by port.", []string{"port"}, float64(c.d.streams.Load()), "node")
	for _, l := range c.d.links {
		up := 0.0
		if l.up() {
			up = 1
		}
		gauge("link_up", "The outgoing stream to a peer is up.", []string{"peer", "channel"}, up, l.name, channelName(l.key.channel))
	}
	var stats []node.Stat
	if err := c.d.query(context.Background(), func(n *node.Node) { stats = n.Stats() }); err != nil {
		return // the driver's own figures are still worth having
	}
	for _, s := range stats {
		if s.Key == "" {
			gauge(s.Name, "Of this node.", nil, s.Value)
		} else {
			gauge(s.Name, "Of a partition on this node.", []string{"partition"}, s.Value, s.Key)
		}
	}
}
