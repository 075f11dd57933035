package client

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "real-time-analytics-platform/api/proto"
)

// scripted answers the calls that come in turn; behind the last answer everything succeeds.
type scripted struct {
	pb.UnimplementedEventIngestionServiceServer
	pb.UnimplementedAnalyticsServiceServer

	lock    sync.Mutex
	answers []error
	events  []*pb.Event
	seen    []metadata.MD
}

func (s *scripted) next(ctx context.Context, events ...*pb.Event) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	sent, _ := metadata.FromIncomingContext(ctx)
	s.seen = append(s.seen, sent)
	s.events = append(s.events, events...)
	if len(s.answers) == 0 {
		return nil
	}
	answer := s.answers[0]
	s.answers = s.answers[1:]
	return answer
}

func (s *scripted) calls() int {
	s.lock.Lock()
	defer s.lock.Unlock()
	return len(s.seen)
}

func (s *scripted) IngestEvent(ctx context.Context, request *pb.IngestEventRequest) (*pb.IngestEventResponse, error) {
	if err := s.next(ctx, request.GetEvent()); err != nil {
		return nil, err
	}
	return &pb.IngestEventResponse{Success: true, EventId: request.GetEvent().GetId()}, nil
}

func (s *scripted) IngestEvents(ctx context.Context, request *pb.IngestEventsRequest) (*pb.IngestEventsResponse, error) {
	if err := s.next(ctx, request.GetEvents()...); err != nil {
		return nil, err
	}
	return &pb.IngestEventsResponse{Success: true, ProcessedCount: int32(len(request.GetEvents()))}, nil
}

func (s *scripted) GetAnalyticsSummary(ctx context.Context, _ *pb.GetAnalyticsSummaryRequest) (*pb.AnalyticsSummary, error) {
	return &pb.AnalyticsSummary{}, s.next(ctx)
}

func (s *scripted) Health(ctx context.Context, _ *emptypb.Empty) (*pb.HealthResponse, error) {
	return &pb.HealthResponse{Healthy: true}, s.next(ctx)
}

func (s *scripted) StreamEvents(stream pb.EventIngestionService_StreamEventsServer) error {
	return s.next(stream.Context())
}

// serve starts the server on a free port and connects a client to it.
func serve(t *testing.T, s *scripted, config ClientConfig, options ...grpc.ServerOption) *Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	pb.RegisterEventIngestionServiceServer(server, s)
	pb.RegisterAnalyticsServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	config.ServerAddress = listener.Addr().String()
	if config.RetryDelay == 0 {
		config.RetryDelay = time.Millisecond
	}
	client, err := NewClient(&config, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// refused is the server's own word that it did not take something.
func refused(t *testing.T, code codes.Code, after time.Duration) error {
	t.Helper()
	answer, err := status.New(code, "full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Err()
}
