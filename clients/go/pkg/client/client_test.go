package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "real-time-analytics-platform/api/proto"
)

func TestDefaultsAreTheOlderClients(t *testing.T) {
	var none *ClientConfig
	for name, config := range map[string]*ClientConfig{"nil": none, "DefaultConfig": DefaultConfig()} {
		got, err := config.completed()
		if err != nil || got != *DefaultConfig() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	written, err := (&ClientConfig{MaxRetries: 5}).completed()
	if err != nil || written.MaxRetries != 5 || written.KeepaliveTime != 30*time.Second || written.MaxConnections != 10 ||
		written.ServerAddress != "localhost:50051" {
		t.Errorf("%+v, %v", written, err)
	}
	_, err = NewClient(&ClientConfig{RequestTimeout: -time.Second}, nil)
	if err == nil || !strings.Contains(err.Error(), "RequestTimeout") {
		t.Errorf("%v does not name the field", err)
	}
}

func TestTheAPIKeyStandsBesideTheOtherMetadata(t *testing.T) {
	s := &scripted{}
	c := serve(t, s, ClientConfig{APIKey: "secret"})
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant", "blue", "x-request-id", "first")
	ctx = c.WithRequestID(c.WithAPIKey(ctx), "second")
	if _, err := pb.NewAnalyticsServiceClient(c.GetConnection()).
		GetAnalyticsSummary(ctx, &pb.GetAnalyticsSummaryRequest{}); err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewEventIngestionServiceClient(c.GetConnection()).StreamEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = stream.Recv()
	for call, seen := range s.seen {
		for name, value := range map[string]string{"x-api-key": "secret", "x-request-id": "second", "x-tenant": "blue"} {
			if got := seen.Get(name); len(got) != 1 || got[0] != value {
				t.Errorf("call %d: %s is %q", call, name, got)
			}
		}
	}
	if s.calls() != 2 {
		t.Errorf("%d calls", s.calls())
	}
}

func TestAKeyOfTheCallGoesBeforeTheConfigs(t *testing.T) {
	s := &scripted{}
	c := serve(t, s, ClientConfig{APIKey: "config's"})
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-api-key", "call's")
	if _, err := pb.NewAnalyticsServiceClient(c.GetConnection()).
		GetAnalyticsSummary(ctx, &pb.GetAnalyticsSummaryRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := s.seen[0].Get("x-api-key"); len(got) != 1 || got[0] != "call's" {
		t.Errorf("%q", got)
	}
}

func TestOverTLSOnlyATrustedServerIsSpokenTo(t *testing.T) {
	// The test server of net/http has a certificate for example.com, and an authority to go with it.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(web.Certificate())
	serving := grpc.Creds(credentials.NewServerTLSFromCert(&web.TLS.Certificates[0]))
	for _, roots := range []*x509.CertPool{trusted, x509.NewCertPool()} {
		s := &scripted{}
		config := ClientConfig{TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
		c := serve(t, s, config, serving)
		_, err := pb.NewAnalyticsServiceClient(c.GetConnection()).
			GetAnalyticsSummary(context.Background(), &pb.GetAnalyticsSummaryRequest{})
		if roots == trusted && (err != nil || s.calls() != 1) {
			t.Error(err)
		}
		if roots != trusted && (status.Code(err) != codes.Unavailable || s.calls() != 0) {
			t.Errorf("%d calls, %v; expected to trust nobody", s.calls(), err)
		}
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	lock sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(line []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.Write(line)
}

func (l *lines) String() string {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.String()
}

func TestConnectedIsSaidOnlyWhenItIsTrue(t *testing.T) {
	// Who listens here takes connections and says nothing: that is not a server.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	said := &lines{}
	logger := logrus.New()
	logger.SetOutput(said)
	c, err := NewClient(&ClientConfig{ServerAddress: address}, logger)
	if err != nil {
		t.Fatalf("a server that is away is no error of the config: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := c.WaitUntilReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if strings.Contains(said.String(), "msg=connected") {
		t.Errorf("it says that it is connected:\n%s", said)
	}

	c = serve(t, &scripted{}, ClientConfig{})
	if err := c.WaitUntilReady(context.Background()); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if err := c.WaitUntilReady(context.Background()); err == nil {
		t.Error("a closed client is not ready")
	}
}

func TestAPoolGivesItsConnectionsInTurnToManyAtOnce(t *testing.T) {
	pool, err := NewConnectionPool(0, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex
	given := map[*Client]int{}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			client := pool.Get()
			lock.Lock()
			defer lock.Unlock()
			given[client]++
		})
	}
	all.Wait()
	for client, times := range given {
		if len(given) != 5 || times != 10 {
			t.Errorf("%d connections; %p was given %d times", len(given), client, times)
		}
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	small, err := NewConnectionPool(20, &ClientConfig{MaxConnections: 2}, nil)
	if err != nil || len(small.clients) != 2 {
		t.Errorf("%v, %v", small, err)
	}
	_ = small.Close()
}
