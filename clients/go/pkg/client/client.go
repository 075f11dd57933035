// Package client connects to the events platform over gRPC: one connection or a pool of them, with the API key and the
// request id in each call's metadata, a budget of time for each call, and retries of the calls that may be repeated.
//
//	c, err := client.NewClient(nil, nil)
//	if err != nil { … }
//	defer c.Close()
//	events := pb.NewEventIngestionServiceClient(c.GetConnection())
//	answer, err := events.IngestEvent(ctx, &pb.IngestEventRequest{Event: event})
package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// messageBytesMax is the largest message either way, as the server has it.
const messageBytesMax = 10 << 20

// Client is one connection to the server; many goroutines may use it at once.
type Client struct {
	config     ClientConfig
	logger     *logrus.Logger
	connection *grpc.ClientConn
	watching   context.CancelFunc
	closing    sync.Once
	closeError error
}

// NewClient prepares a connection. A nil config has every default; with a nil logger nothing is logged.
//
// It does not connect: the first call does. An error therefore means that the config is wrong, never that the server is
// away. WaitUntilReady connects at once.
func NewClient(config *ClientConfig, logger *logrus.Logger) (*Client, error) {
	complete, err := config.completed()
	if err != nil {
		return nil, err
	}
	if logger == nil {
		logger = logrus.New()
		logger.SetOutput(io.Discard)
	}
	c := &Client{config: complete, logger: logger}
	c.connection, err = grpc.NewClient(complete.ServerAddress, c.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("client: ServerAddress %q: %w", complete.ServerAddress, err)
	}
	if complete.APIKey != "" && complete.TLS == nil && !isLoopback(complete.ServerAddress) {
		logger.Warnf("the API key goes to %s in the clear: set TLS", complete.ServerAddress)
	}
	watched, stop := context.WithCancel(context.Background())
	c.watching = stop
	go c.watch(watched)
	return c, nil
}

func (c *Client) dialOptions() []grpc.DialOption {
	transport := insecure.NewCredentials()
	if c.config.TLS != nil {
		transport = credentials.NewTLS(c.config.TLS)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent("tidegate-go"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.DefaultConfig,
			MinConnectTimeout: c.config.ConnectionTimeout,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(messageBytesMax),
			grpc.MaxCallSendMsgSize(messageBytesMax),
		),
		grpc.WithUnaryInterceptor(c.unary),
		grpc.WithStreamInterceptor(c.stream),
	}
	if c.config.EnableKeepalive {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                c.config.KeepaliveTime,
			Timeout:             c.config.KeepaliveTimeout,
			PermitWithoutStream: true,
		}))
	}
	return options
}

// watch logs what becomes of the connection, when it becomes so.
func (c *Client) watch(ctx context.Context) {
	entry := c.logger.WithField("server", c.config.ServerAddress)
	state := c.connection.GetState()
	for c.connection.WaitForStateChange(ctx, state) {
		before := state
		state = c.connection.GetState()
		switch {
		case state == connectivity.Ready:
			entry.Info("connected")
		case state == connectivity.TransientFailure:
			entry.Warn("cannot connect, trying again")
		case state == connectivity.Shutdown:
			return
		case before == connectivity.Ready:
			entry.Info("connection closed")
		}
	}
}

// WaitUntilReady connects now and returns when the connection stands, or with the context's error.
func (c *Client) WaitUntilReady(ctx context.Context) error {
	for {
		state := c.connection.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return fmt.Errorf("client: %s: the client is closed", c.config.ServerAddress)
		case connectivity.Idle:
			c.connection.Connect()
		}
		if !c.connection.WaitForStateChange(ctx, state) {
			return fmt.Errorf("client: %s: not connected, %s: %w", c.config.ServerAddress, state, ctx.Err())
		}
	}
}

// GetConnection returns the connection for the generated clients: pb.NewEventIngestionServiceClient and the like.
func (c *Client) GetConnection() *grpc.ClientConn {
	return c.connection
}

// Close ends the connection and every call on it. Closing again does nothing.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.watching()
		c.closeError = c.connection.Close()
	})
	return c.closeError
}

func (c *Client) unary(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.RequestTimeout)
	defer cancel()
	ctx = c.WithAPIKey(ctx)
	request = withIDs(request)
	return c.repeat(ctx, method, request, func() error {
		return invoke(ctx, method, request, reply, connection, options...)
	})
}

func (c *Client) stream(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(c.WithAPIKey(ctx), description, connection, method, options...)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
