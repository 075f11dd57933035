// A tour of the Go client: one event, a batch, a stream, and the numbers that come of them.
//
//	go run examples/grpc_client/main.go
//
// TIDEGATE_ADDRESS is another server than localhost:50051, TIDEGATE_API_KEY a key of its API_KEYS.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "real-time-analytics-platform/api/proto"
	"real-time-analytics-platform/pkg/client"
)

func main() {
	config := client.DefaultConfig()
	config.APIKey = os.Getenv("TIDEGATE_API_KEY")
	if address := os.Getenv("TIDEGATE_ADDRESS"); address != "" {
		config.ServerAddress = address
	}
	pool, err := client.NewConnectionPool(2, config, logrus.New())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := tour(pool); err != nil {
		log.Fatal(err)
	}
}

func tour(pool *client.ConnectionPool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := pool.Get()
	if err := c.WaitUntilReady(ctx); err != nil {
		return err
	}
	ctx = c.WithRequestID(ctx, fmt.Sprintf("tour-%d", time.Now().UnixNano()))
	events := pb.NewEventIngestionServiceClient(c.GetConnection())

	one, err := events.IngestEvent(ctx, &pb.IngestEventRequest{Event: click("home")})
	if err != nil {
		return err
	}
	fmt.Printf("one event:  %s, %s\n", one.GetEventId(), one.GetMessage())

	// What is wrong with one event of a batch does not keep the others out.
	batch := &pb.IngestEventsRequest{Events: []*pb.Event{click("search"), bought(19.90), {UserId: "of no type"}}}
	several, err := events.IngestEvents(ctx, batch)
	if err != nil {
		return err
	}
	fmt.Printf("a batch:    %d stored, %d not\n", several.GetProcessedCount(), several.GetFailedCount())
	for _, wrong := range several.GetValidationErrors() {
		fmt.Printf("            %s: %s\n", wrong.GetField(), wrong.GetMessage())
	}

	stored, err := stream(ctx, events)
	if err != nil {
		return err
	}
	fmt.Printf("a stream:   %d stored\n", stored)

	analytics := pb.NewAnalyticsServiceClient(pool.Get().GetConnection())
	summary, err := analytics.GetAnalyticsSummary(ctx, &pb.GetAnalyticsSummaryRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("last hour:  %d events of %d users\n", summary.GetTotalEvents(), summary.GetUniqueUsers())
	return nil
}

// stream sends ten events without waiting for answers, then reads those that have come.
func stream(ctx context.Context, events pb.EventIngestionServiceClient) (int, error) {
	open, err := events.StreamEvents(ctx)
	if err != nil {
		return 0, err
	}
	for range 10 {
		request := &pb.StreamEventsRequest{Request: &pb.StreamEventsRequest_Event{Event: click("item")}}
		if err := open.Send(request); err != nil {
			break // Recv says why.
		}
	}
	if err := open.CloseSend(); err != nil {
		return 0, err
	}
	stored := 0
	for {
		answer, err := open.Recv()
		if errors.Is(err, io.EOF) {
			return stored, nil
		}
		if err != nil {
			return stored, err
		}
		if answer.GetEventResponse().GetSuccess() {
			stored++
		}
	}
}

func click(page string) *pb.Event {
	return &pb.Event{
		UserId:     "tourist",
		EventType:  pb.EventType_EVENT_TYPE_USER,
		Timestamp:  timestamppb.Now(),
		Source:     "tour",
		Properties: map[string]string{"page": page},
		EventData:  &pb.Event_UserEvent{UserEvent: &pb.UserEvent{Action: "click"}},
	}
}

func bought(amount float64) *pb.Event {
	return &pb.Event{
		UserId:    "tourist",
		EventType: pb.EventType_EVENT_TYPE_TRANSACTION,
		Timestamp: timestamppb.Now(),
		Source:    "tour",
		EventData: &pb.Event_TransactionEvent{TransactionEvent: &pb.TransactionEvent{
			TransactionId: fmt.Sprintf("t-%d", time.Now().UnixNano()),
			Type:          pb.TransactionType_TRANSACTION_TYPE_PURCHASE,
			Status:        pb.TransactionStatus_TRANSACTION_STATUS_COMPLETED,
			Amount:        amount,
			Currency:      "EUR",
		}},
	}
}
